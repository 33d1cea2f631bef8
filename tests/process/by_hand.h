/*
 * by_hand - what the tests of wharfd share: a task, a port, and requests in the protocol's own words.
 */
#ifndef TEST_BY_HAND_H
#define TEST_BY_HAND_H

#include "names/proto.h"
#include "test.h"
#include "wharf/message.h"

static inline wharf_task *task(void)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        return t;
}

static inline wharf_name port(wharf_task *t)
{
        wharf_name p;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        CHECK_EQ(wharf_port_new(t, &o, &p), 0);
        return p;
}

/* One question, with these items: how many bytes the answer has, or a negative errno of the call. */
static inline ssize_t ask_with(wharf_task *t, wharf_name right, const struct wh_names_request *req,
                               struct wharf_item *items, unsigned n_items, void *answer, size_t cap)
{
        uint8_t buf[WH_NAMES_REQUEST_MAX];
        struct wharf_msg m = {.size = sizeof m,
                              .data = buf,
                              .len_bytes = wh_names_put_request(req, buf),
                              .items = items,
                              .n_items = n_items};
        struct wharf_msg r = {.size = sizeof r, .data = answer, .cap_bytes = cap};
        int err = wharf_callmsg(t, right, &m, &r, WHARF_FOREVER);
        return err < 0 ? err : (ssize_t)r.len_bytes;
}

/* The same without any; it must be answered. */
static inline size_t ask_by_hand(wharf_task *t, wharf_name right, const struct wh_names_request *req, void *answer,
                                 size_t cap)
{
        ssize_t len = ask_with(t, right, req, NULL, 0, answer, cap);
        CHECK_GE(len, 0);
        return (size_t)len;
}

/* Its first half, perhaps with a right to `port`. */
static inline uint32_t start_by_hand(wharf_task *t, wharf_name right, const struct wh_names_request *req,
                                     wharf_name port)
{
        uint8_t buf[WH_NAMES_REQUEST_MAX];
        uint32_t call;
        struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = {.size = sizeof m, .data = buf, .len_bytes = wh_names_put_request(req, buf)};
        m.items = &item;
        m.n_items = port != WHARF_NONE;
        CHECK_EQ(wharf_call_start(t, right, &m, WHARF_NONE, wharf_in_ms(60000), &call), 0);
        return call;
}

/* The errno that an answer says. */
static inline int answer_of(const void *answer, size_t len, enum wh_names_op op)
{
        int said = 0;
        uint32_t line;
        CHECK_EQ(wh_names_get_reply(answer, len, op, &said, &line), 0);
        return said;
}

#endif
