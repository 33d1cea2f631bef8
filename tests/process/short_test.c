/*
 * Short of memory: what a receiver has no memory for now stays where it is, and is received as soon as there is some.
 * No link ends for it, and nothing is lost.
 */
#include "descriptors.h"
#include "hub.h"

#include "os/os.h"

#include <wharf/memory.h>

/* ---- refusing ---- */

static unsigned seen, refuse_from, refuse_to;

/* One kind of call after another, each time the receiver could run out of memory. */
static int refuse(enum wh_os_call call)
{
        switch (call) {
        case WH_OS_malloc:
        case WH_OS_mmap:
        case WH_OS_recvmsg:
        case WH_OS_get_seals:
        case WH_OS_fstat:
        case WH_OS_fstatfs:
        case WH_OS_epoll_ctl:
                seen++;
                return seen > refuse_from && seen <= refuse_to ? -ENOMEM : 0;
        default:
                return 0;
        }
}

static int receive_short(struct hub *h, struct wharf_msg *m)
{
        wh_os_gate = refuse;
        int r = wharf_recvmsg(h->task, h->port, m, 0);
        wh_os_gate = NULL;
        return r;
}

/* ---- messages by every way ---- */

enum { WAYS = 12, BURST = 2500, LARGE = 9 << 20 };
static const struct {
        uint32_t how;
        size_t len;
        bool item, memory;
} ways[WAYS] = {
        {WHARF_HOW_COLD, 10, 0, 0},         {WHARF_HOW_COLD, 3000, 1, 0},   {WHARF_HOW_MEMORY, 5000, 1, 0},
        {WHARF_HOW_COLD, 40000, 0, 0},      {WHARF_HOW_AUTO, 10, 0, 1},     {WHARF_HOW_INLINE, 100, 0, 0},
        {WHARF_HOW_INLINE, 100, 1, 0},      {WHARF_HOW_SECTION, 900, 0, 0}, {WHARF_HOW_MEMORY, 70000, 1, 0},
        {WHARF_HOW_SECTION, 2 << 20, 0, 0}, {WHARF_HOW_AUTO, 100, 0, 1},    {WHARF_HOW_AUTO, LARGE, 0, 0},
};

static void send_way(struct hub *h, wharf_name right, unsigned i, uint8_t *bytes)
{
        struct wharf_item it = {.kind = WHARF_COPY_FD, .fd = 0};
        struct wharf_msg m = MSG(.id = i, .data = bytes, .len_bytes = ways[i].len, .how = ways[i].how, .items = &it,
                                 .n_items = ways[i].item || ways[i].memory);
        pattern_fill(bytes, ways[i].len, i);
        if (ways[i].memory) {
                void *at;
                it.kind = WHARF_MOVE_MEMORY;
                CHECK_EQ(wharf_memory_new(h->task, 10000, &it.name), 0);
                CHECK_EQ(wharf_memory_at(h->task, it.name, &at, NULL), 0);
                memset(at, (int)i, 10000);
        }
        CHECK_EQ(wharf_sendmsg(h->task, right, &m, 0), 0);
}

static void check_way(struct hub *h, unsigned i, const struct wharf_msg *m, uint8_t *expect)
{
        CHECK_EQ(m->id, i);
        CHECK_EQ(m->len_bytes, ways[i].len);
        pattern_fill(expect, ways[i].len, i);
        CHECK_MEM(m->data, expect, ways[i].len);
        CHECK_EQ(m->n_items, ways[i].item || ways[i].memory);
        if (ways[i].item)
                CHECK_EQ(close(m->items[0].fd), 0);
        if (ways[i].memory) {
                void *at;
                CHECK_EQ(wharf_memory_at(h->task, m->items[0].name, &at, NULL), 0);
                CHECK_EQ(((uint8_t *)at)[9999], i);
                CHECK_EQ(wharf_drop(h->task, m->items[0].name), 0);
        }
}

/* All ways, and then so many messages that the queue goes on in further rings. How many calls were answered -ENOMEM. */
static unsigned pass_all(uint64_t capacity, bool large)
{
        static uint8_t bytes[LARGE], got[LARGE], expect[LARGE];
        struct hub h = hub_open(PORT_OPTS(.capacity_records = (uint32_t)capacity));
        const unsigned burst = capacity == WHARF_UNBOUNDED ? BURST : 100;
        unsigned shorts = 0;
        wharf_name right;
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        seen = 0;
        for (unsigned i = 0; i < WAYS; i++) {
                struct wharf_item it;
                struct wharf_msg m = MSG(.data = got, .cap_bytes = sizeof got, .items = &it, .cap_items = 1);
                if (ways[i].len > 1 << 20 && !large)
                        continue; /* not every time: they take long */
                send_way(&h, right, i, bytes);
                int r;
                while ((r = receive_short(&h, &m)) == -ENOMEM)
                        shorts++;
                CHECK_EQ(r, 0);
                check_way(&h, i, &m, expect);
        }
        for (unsigned i = 0; i < burst; i++)
                CHECK_EQ(wharf_send(h.task, right, &i, sizeof i, 0), 0);
        for (unsigned i = 0, n; i < burst; i++) {
                struct wharf_msg m = MSG(.data = &n, .cap_bytes = sizeof n);
                int r;
                while ((r = receive_short(&h, &m)) == -ENOMEM)
                        shorts++;
                CHECK_EQ(r, 0);
                CHECK_EQ(n, i);
        }
        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        CHECK_EQ(st.dead, 0);
        hub_close(&h);
        return shorts;
}

/*
 * Goal:   whatever a receiver runs out of memory for, it looks once more, after all others have been looked at; or the call
 *         says -ENOMEM, and the next one receives it.
 * Method: the n-th call that takes memory, or looks at memory that came, is refused once; for every n.
 */
static void refuse_each(uint64_t capacity)
{
        unsigned before = count_fds(), refused = 0;
        refuse_to = 0;
        pass_all(capacity, false);
        for (unsigned n = 0, all = seen; n < all && n < 400; n++) {
                refuse_from = n;
                refuse_to = n + 1;
                CHECK_LE(pass_all(capacity, false), 1);
                refused += seen > n;
        }
        CHECK_GE(refused, 20);
        CHECK_EQ(count_fds(), before);
}

TEST(a_receiver_short_of_memory_once_loses_no_message_of_a_bounded_queue)
{
        refuse_each(256);
}

/* The next ring is mapped later; until then what is in it stays where it is. */
TEST(a_receiver_short_of_memory_once_loses_no_message_of_an_unbounded_queue)
{
        refuse_each(WHARF_UNBOUNDED);
}

TEST(a_receiver_short_of_memory_for_long_goes_on_where_it_was)
{
        for (unsigned n = 0; n < 60; n += 7) {
                refuse_from = n;
                refuse_to = n + 25;
                CHECK_GE(pass_all(WHARF_UNBOUNDED, true), 2);
        }
}

/* ---- replies ---- */

static int no_memory(enum wh_os_call call)
{
        return call == WH_OS_malloc || call == WH_OS_mmap ? -ENOMEM : 0;
}

/* A reply as a frame, in the lane, and by a socket of its own: the call stays outstanding, and is answered later. */
TEST(a_reply_for_which_there_is_no_memory_comes_later)
{
        struct hub h = hub_open(NULL);
        wharf_name right, other, to;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &other), 0);
        CHECK_EQ(wharf_right_new(h.task, other, &to), 0);
        for (unsigned i = 0; i < 60; i++) {
                bool passed_on = i % 3 == 2;
                uint32_t call[2];
                uint8_t got[5000];
                struct wharf_msg in = MSG(.data = got, .cap_bytes = sizeof got);
                wharf_name reply[2];
                for (unsigned k = 0; k < 2; k++) {
                        struct wharf_msg q = MSG(.data = BYTES("?"), .len_bytes = 1);
                        CHECK_EQ(wharf_call_start(h.task, right, &q, WHARF_NONE, 0, &call[k]), 0);
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &in, 0), 0);
                        reply[k] = in.reply;
                }
                if (passed_on) {
                        struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = reply[0]}, got_it;
                        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
                        CHECK_EQ(wharf_sendmsg(h.task, to, &m, 0), 0);
                        m = MSG(.items = &got_it, .cap_items = 1);
                        CHECK_EQ(wharf_recvmsg(h.task, other, &m, 0), 0);
                        reply[0] = got_it.name;
                }
                /* The other one first: it is in the way of the one that is asked for. */
                uint8_t answer[3000];
                for (unsigned k = 2; k-- > 0;) {
                        memset(answer, (int)(i + k), sizeof answer);
                        CHECK_EQ(wharf_reply(h.task, reply[k], answer, i % 2 ? 3000 : 10), 0);
                }
                for (unsigned k = 0; k < 2; k++) {
                        struct wharf_msg a = MSG(.data = got, .cap_bytes = sizeof got);
                        wh_os_gate = no_memory;
                        int r = wharf_call_finish(h.task, right, call[k], &a, 0);
                        wh_os_gate = NULL;
                        CHECK(r == 0 || r == -ENOMEM);
                        if (r < 0)
                                CHECK_EQ(wharf_call_finish(h.task, right, call[k], &a, wharf_in_ms(60000)), 0);
                        CHECK_EQ(a.len_bytes, i % 2 ? 3000 : 10);
                        CHECK_EQ(got[9], i + k);
                }
        }
        hub_close(&h);
}

/* ---- introductions ---- */

TEST(who_is_introduced_while_there_is_no_memory_is_let_in_later)
{
        struct hub h = hub_open(NULL);
        wharf_name right, other, to;
        char c;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &other), 0);
        CHECK_EQ(wharf_right_new(h.task, other, &to), 0);
        CHECK_EQ(wharf_send(h.task, right, "a", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
        for (int i = 0; i < 40; i++) { /* what the task keeps for later runs out */
                struct wharf_item it = {.kind = WHARF_COPY_SEND, .name = right}, got;
                struct wharf_msg m = MSG(.items = &it, .n_items = 1);
                CHECK_EQ(wharf_sendmsg(h.task, to, &m, 0), 0);
                m = MSG(.items = &got, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, other, &m, 0), 0);
                wh_os_gate = no_memory;
                int r = wharf_recv(h.task, h.port, &c, 1, NULL, 0);
                wh_os_gate = NULL;
                CHECK(r == -EAGAIN || r == -ENOMEM);
                CHECK_EQ(wharf_send(h.task, got.name, "b", 1, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, wharf_in_ms(60000)), 1);
        }
        hub_close(&h);
}

/* ---- descriptors, and what a port takes ---- */

/* Frames of messages, of a lane, of a section and of items: each is looked at in vain, and received later. */
TEST(a_receiver_short_of_descriptors_loses_no_message)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        uint8_t *bytes = malloc(LARGE), *got = malloc(LARGE);
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        unsigned in_vain = 0;
        for (unsigned i = 0; i < 4 * WAYS; i++) {
                send_way(&h, right, i % WAYS, bytes);
                struct wharf_item it;
                struct wharf_msg m = MSG(.data = got, .cap_bytes = LARGE, .items = &it, .cap_items = 1);
                rlim_t was = limit_descriptors(3);
                int r = wharf_recvmsg(h.task, h.port, &m, 0);
                limit_descriptors(was);
                CHECK(r == 0 || r == -EMFILE || r == -EAGAIN || r == -ENOMEM);
                if (r < 0) {
                        in_vain++;
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
                }
                CHECK_EQ(m.id, i % WAYS);
                CHECK_EQ(m.n_items, ways[i % WAYS].item || ways[i % WAYS].memory);
                if (m.n_items && it.kind == WHARF_GOT_FD)
                        close(it.fd);
                else if (m.n_items)
                        CHECK_EQ(wharf_drop(h.task, it.name), 0);
        }
        CHECK_GE(in_vain, 10);
        free(bytes);
        free(got);
        hub_close(&h);
}

/* It does not wait, and does not begin what it cannot end: the right stays, and so does the caller's link. */
TEST(a_reply_for_which_there_is_no_descriptor_comes_later)
{
        enum { LEN = 1 << 20 };
        struct hub h = hub_open(NULL);
        wharf_name right;
        uint8_t *answer = calloc(1, LEN), *got = malloc(LEN), c;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (int i = 0; i < 3; i++) {
                uint32_t call;
                struct wharf_msg q = MSG(.data = BYTES("?"), .len_bytes = 1), a = MSG(.data = got, .cap_bytes = LEN);
                struct wharf_msg in = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_call_start(h.task, right, &q, WHARF_NONE, 0, &call), 0);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &in, 0), 0);
                answer[LEN - 1] = (uint8_t)i;
                rlim_t was = limit_descriptors(3);
                int r = wharf_reply(h.task, in.reply, answer, LEN);
                limit_descriptors(was);
                CHECK(i ? r == 0 || r == -EMFILE : r == -EMFILE);
                if (r < 0)
                        CHECK_EQ(wharf_reply(h.task, in.reply, answer, LEN), 0);
                CHECK_EQ(wharf_call_finish(h.task, right, call, &a, wharf_in_ms(60000)), 0);
                CHECK_EQ(a.len_bytes, LEN);
                CHECK_EQ(got[LEN - 1], i);
        }
        free(answer);
        free(got);
        hub_close(&h);
}

static int no_shared_memory(enum wh_os_call call)
{
        return call == WH_OS_memfd_create ? -EPERM : 0;
}

TEST(a_large_reply_without_shared_memory_is_refused_before_it_begins)
{
        enum { LEN = 1 << 20 };
        struct hub h = hub_open(NULL);
        wharf_name right;
        uint8_t *answer = calloc(1, LEN), c;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (int i = 0; i < 3; i++) {
                uint32_t call;
                struct wharf_msg q = MSG(.data = BYTES("?"), .len_bytes = 1), a = MSG(.data = answer, .cap_bytes = LEN);
                struct wharf_msg in = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_call_start(h.task, right, &q, WHARF_NONE, 0, &call), 0);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &in, 0), 0);
                wh_os_gate = no_shared_memory;
                CHECK_EQ(wharf_reply(h.task, in.reply, answer, LEN), -EOPNOTSUPP);
                CHECK_EQ(wharf_reply(h.task, in.reply, answer, 60000), 0);
                wh_os_gate = NULL;
                CHECK_EQ(wharf_call_finish(h.task, right, call, &a, wharf_in_ms(60000)), 0);
                CHECK_EQ(a.len_bytes, 60000);
        }
        free(answer);
        hub_close(&h);
}

TEST(a_queue_without_bound_says_at_once_that_the_port_maps_no_more)
{
        struct wharf_port_opts o = {
                .size = sizeof o, .capacity_records = WHARF_UNBOUNDED, .link_mapped_bytes_max = 1 << 20};
        struct hub h = hub_open(&o);
        wharf_name right;
        static uint8_t bytes[2 << 20];
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        static const size_t lens[] = {16, 8 << 10, 100 << 10};
        for (unsigned i = 0; i < 3; i++) {
                unsigned n = 0;
                int r;
                /* The ring that grew shrinks meanwhile, and for a time the receiver maps both. */
                while ((r = wharf_send(h.task, right, bytes, lens[i], WHARF_FOREVER)) == 0)
                        if (++n == 31)
                                usleep(2000);
                CHECK(r == -EDQUOT || r == -ENOBUFS); /* the latter where memories in the socket are too many */
                CHECK(r == -ENOBUFS || strstr(wharf_why(), "link_mapped_bytes_max"));
                CHECK_GE(n, 1);
                for (unsigned k = 0; k < n; k++)
                        CHECK_EQ(wharf_recv(h.task, h.port, bytes, sizeof bytes, NULL, 0), lens[i]);
                CHECK_EQ(wharf_recv(h.task, h.port, bytes, sizeof bytes, NULL, 0), -EAGAIN);
        }
        hub_close(&h);
}
