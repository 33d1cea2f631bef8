#include "names/proto.h"
#include "test.h"

TEST(a_request_survives_the_wire)
{
        static const struct wh_names_request asks[] = {
                {WH_NAMES_REGISTER, 0, {{1, 2}}, "log.ingest"},
                {WH_NAMES_UNREGISTER, 0, {{0, 2}}, "a"},
                {WH_NAMES_WATCH, 0, {{1, 2}}, "org.example."},
                {WH_NAMES_WATCH, 0, {{1, 2}}, ""},
                {WH_NAMES_UNWATCH, 0, {{1, 2}}, ""},
                {WH_NAMES_LOOKUP, 12345678901, {{0}}, "x/y:z@host-1_2"},
                {WH_NAMES_LOOKUP, WH_NAMES_FOREVER, {{0}}, "n"},
                {WH_NAMES_LIST, 0, {{0}}, ""},
        };
        for (unsigned i = 0; i < sizeof asks / sizeof *asks; i++) {
                char buf[WH_NAMES_REQUEST_MAX];
                size_t len = wh_names_put_request(&asks[i], buf);
                struct wh_names_request got;
                CHECK_EQ(wh_names_get_request(buf, len, &got), 0);
                CHECK_EQ(got.op, asks[i].op);
                CHECK(got.timeout_ns == asks[i].timeout_ns);
                CHECK_STR(got.name, asks[i].name);
                CHECK_MEM(&got.cookie, &asks[i].cookie, sizeof got.cookie);
                /* One byte less or more is no request. */
                CHECK_EQ(wh_names_get_request(buf, len - 1, &got), -EPROTO);
                char longer[WH_NAMES_REQUEST_MAX + 1];
                memcpy(longer, buf, len);
                longer[len] = 'x';
                CHECK_EQ(wh_names_get_request(longer, len + 1, &got), -EPROTO);
        }
}

TEST(what_a_name_is)
{
        char longest[WHARF_NAME_MAX + 2];
        memset(longest, 'n', sizeof longest);
        CHECK(wh_names_valid("a", 1));
        CHECK(wh_names_valid("AZaz09._-/:@", 12));
        CHECK(wh_names_valid(longest, WHARF_NAME_MAX));
        CHECK(!wh_names_valid(longest, WHARF_NAME_MAX + 1));
        CHECK(!wh_names_valid("", 0));
        CHECK(!wh_names_valid("a b", 3));
        CHECK(!wh_names_valid("a\0b", 3));
        CHECK(!wh_names_valid("a\nb", 3));
        CHECK(!wh_names_valid("\xc3\xa4", 2));
}

/* Sets one field of a good request and says what becomes of it. */
#define REQUEST_WITH(field, value)                                                      \
        ({                                                                              \
                struct wh_names_request ask = {WH_NAMES_LOOKUP, 5, {{0}}, "name"}, got; \
                char buf[WH_NAMES_REQUEST_MAX];                                         \
                size_t len = wh_names_put_request(&ask, buf);                           \
                struct wh_names_request_head h;                                         \
                memcpy(&h, buf, sizeof h);                                              \
                h.field = (value);                                                      \
                memcpy(buf, &h, sizeof h);                                              \
                wh_names_get_request(buf, len, &got);                                   \
        })

TEST(each_field_of_a_request_is_checked)
{
        CHECK_EQ(REQUEST_WITH(magic, WH_NAMES_MAGIC), 0);
        CHECK_EQ(REQUEST_WITH(magic, 1), -EPROTO);
        CHECK_EQ(REQUEST_WITH(version, WH_NAMES_VERSION + 1), -EPROTONOSUPPORT);
        CHECK_EQ(REQUEST_WITH(version, 0), -EPROTONOSUPPORT);
        CHECK_EQ(REQUEST_WITH(op, 0), -EPROTO);
        CHECK_EQ(REQUEST_WITH(op, 5), -EPROTO);
        CHECK_EQ(REQUEST_WITH(op, WH_NAMES_LIST), -EPROTO); /* takes no name */
        CHECK_EQ(REQUEST_WITH(op, WH_NAMES_OPS), -EPROTO);
        CHECK_EQ(REQUEST_WITH(cookie.v[1], 1), -EPROTO); /* a look-up has none, a watch has one */
        CHECK_EQ(REQUEST_WITH(op, WH_NAMES_WATCH), -EPROTO);
        CHECK_EQ(REQUEST_WITH(op, WH_NAMES_REGISTER), -EPROTO); /* takes no time */
        CHECK_EQ(REQUEST_WITH(name_len, 3), -EPROTO);
        CHECK_EQ(REQUEST_WITH(name_len, 5), -EPROTO);
        CHECK_EQ(REQUEST_WITH(name_len, UINT32_MAX), -EPROTO);
        CHECK_EQ(REQUEST_WITH(flags, 2), -EPROTO);

        struct wh_names_request got;
        char buf[sizeof(struct wh_names_request_head) + WHARF_NAME_MAX + 1];
        struct wh_names_request_head h = {WH_NAMES_MAGIC, WH_NAMES_VERSION, WH_NAMES_LOOKUP, 0, WHARF_NAME_MAX + 1, 0};
        memset(buf, 'n', sizeof buf);
        memcpy(buf, &h, sizeof h);
        CHECK_EQ(wh_names_get_request(buf, sizeof buf, &got), -EINVAL);
}

TEST(an_answer_survives_the_wire)
{
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LOOKUP, -ENOENT, 0);
        int answer = 1;
        uint32_t line;
        CHECK_EQ(wh_names_get_reply(&h, sizeof h, WH_NAMES_LOOKUP, &answer, &line), 0);
        CHECK_EQ(answer, -ENOENT);
        h = wh_names_reply(WH_NAMES_REGISTER, 0, 0);
        CHECK_EQ(wh_names_get_reply(&h, sizeof h, WH_NAMES_REGISTER, &answer, &line), 0);
        CHECK_EQ(answer, 0);

        /* An answer to something else, none at all, one that is too long, errors that are none. */
        CHECK_EQ(wh_names_get_reply(&h, sizeof h, WH_NAMES_LOOKUP, &answer, &line), -EPROTO);
        CHECK_EQ(wh_names_get_reply(&h, sizeof h - 1, WH_NAMES_REGISTER, &answer, &line), -EPROTO);
        char longer[sizeof h + 1] = {0};
        memcpy(longer, &h, sizeof h);
        CHECK_EQ(wh_names_get_reply(longer, sizeof longer, WH_NAMES_REGISTER, &answer, &line), -EPROTO);
        h.error = 4096;
        CHECK_EQ(wh_names_get_reply(&h, sizeof h, WH_NAMES_REGISTER, &answer, &line), -EPROTO);
        h.error = (uint32_t)-5;
        CHECK_EQ(wh_names_get_reply(&h, sizeof h, WH_NAMES_REGISTER, &answer, &line), -EPROTO);
        h = wh_names_reply(WH_NAMES_REGISTER, 0, 0);
        h.version = 9;
        CHECK_EQ(wh_names_get_reply(&h, sizeof h, WH_NAMES_REGISTER, &answer, &line), -EPROTONOSUPPORT);
}

/* A list of two names, as wharfd would send it. */
static size_t two_names(char *buf)
{
        struct wharf_named a = {.name = "alpha",
                                .pid = 12,
                                .uid = 34,
                                .id = {56},
                                .senders = 7,
                                .receivers_waiting = 1,
                                .queued_messages = 8,
                                .received_messages = 9,
                                .received_bytes = 10};
        struct wharf_named b = {.name = "b"};
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LIST, 0, 2);
        memcpy(buf, &h, sizeof h);
        size_t len = sizeof h;
        len += wh_names_put_entry(&a, buf + len);
        len += wh_names_put_entry(&b, buf + len);
        return len;
}

TEST(a_list_survives_the_wire)
{
        char buf[1024];
        size_t len = two_names(buf), n;
        struct wharf_named *all;
        int answer;
        uint32_t line;
        CHECK_EQ(wh_names_get_reply(buf, len, WH_NAMES_LIST, &answer, &line), 0);
        CHECK_EQ(wh_names_get_list(buf, len, &all, &n), 0);
        CHECK_EQ(n, 2);
        CHECK_STR(all[0].name, "alpha");
        CHECK_EQ(all[0].pid, 12);
        CHECK_EQ(all[0].uid, 34);
        CHECK_EQ(all[0].id.v, 56);
        CHECK_EQ(all[0].senders, 7);
        CHECK_EQ(all[0].receivers_waiting, 1);
        CHECK_EQ(all[0].queued_messages, 8);
        CHECK_EQ(all[0].received_messages, 9);
        CHECK_EQ(all[0].received_bytes, 10);
        CHECK_STR(all[1].name, "b");
        free(all);
}

/*
 * Goal:   no bytes at all make a parser read outside of them, or accept what contradicts itself.
 * Method: every truncation; then random changes of valid messages, in memory of exactly their size, so that the
 *         sanitizers and the allocator see a read too far.
 */
TEST(hostile_bytes)
{
        char good[1024];
        size_t len = two_names(good);
        for (size_t cut = 0; cut < len; cut++) {
                char *exact = malloc(cut ? cut : 1);
                memcpy(exact, good, cut);
                struct wharf_named *all;
                size_t n;
                CHECK_EQ(wh_names_get_list(exact, cut, &all, &n), -EPROTO);
                free(exact);
        }
        for (int round = 0; round < 200000; round++) {
                struct wh_names_request ask = {WH_NAMES_LOOKUP, 5, {{0}}, "some.name"}, got;
                char buf[1024];
                bool list = round & 1;
                size_t size = list ? two_names(buf) : wh_names_put_request(&ask, buf);
                for (unsigned k = (unsigned)(test_random() % 3 + 1); k--;)
                        buf[test_random() % size] = (char)test_random();
                if (test_random() % 4 == 0)
                        size = test_random() % (size + 1);
                char *exact = malloc(size ? size : 1);
                memcpy(exact, buf, size);
                if (list) {
                        struct wharf_named *all;
                        size_t n;
                        int answer;
                        uint32_t line;
                        if (wh_names_get_reply(exact, size, WH_NAMES_LIST, &answer, &line) == 0 && answer == 0 &&
                            wh_names_get_list(exact, size, &all, &n) == 0) {
                                for (size_t i = 0; i < n; i++)
                                        CHECK(wh_names_valid(all[i].name, strlen(all[i].name)));
                                free(all);
                        }
                } else if (wh_names_get_request(exact, size, &got) == 0) {
                        CHECK(got.op == WH_NAMES_LIST || wh_names_valid(got.name, strlen(got.name)));
                }
                free(exact);
        }
}

TEST(an_event_survives_the_wire)
{
        const struct wharf_name_event told[] = {
                {.what = WHARF_NAMES_BEGIN},
                {.what = WHARF_NAME_IS, .pid = 7, .uid = 1000, .id = {~0ull}, .name = "log.ingest"},
                {.what = WHARF_NAME_GONE, .name = "a"},
                {.what = WHARF_NAMES_END},
        };
        for (unsigned i = 0; i < sizeof told / sizeof *told; i++) {
                char buf[WH_NAMES_EVENT_MAX + 1];
                size_t len = wh_names_put_event(&told[i], buf);
                struct wharf_name_event got;
                CHECK_EQ(wh_names_get_event(buf, len, &got), 0);
                CHECK_EQ(got.what, told[i].what);
                CHECK_EQ(got.pid, told[i].pid);
                CHECK_EQ(got.uid, told[i].uid);
                CHECK(got.id.v == told[i].id.v);
                CHECK_STR(got.name, told[i].name);
                CHECK_EQ(wh_names_get_event(buf, len - 1, &got), -EPROTO);
                CHECK_EQ(wh_names_get_event(buf, len + 1, &got), -EPROTO);
                struct wh_names_event_head h;
                memcpy(&h, buf, sizeof h);
                h.what = WHARF_NAMES_END + 1;
                memcpy(buf, &h, sizeof h);
                CHECK_EQ(wh_names_get_event(buf, len, &got), -EPROTO);
                h.version++;
                memcpy(buf, &h, sizeof h);
                CHECK_EQ(wh_names_get_event(buf, len, &got), -EPROTONOSUPPORT);
        }
}
