/* Where the library's layout is another one than the adversary's, this does not compile: see wire.h. */
#include "wire.h"

#include "link/link.h"
#include "names/proto.h"

#include <assert.h>

#define SAME(ours, theirs, field) static_assert(offsetof(ours, field) == offsetof(theirs, field), #field)
static_assert(sizeof(struct wire_frame) == sizeof(struct wh_frame), "the head of a frame");
SAME(struct wire_frame, struct wh_frame, to);
SAME(struct wire_frame, struct wh_frame, type);
SAME(struct wire_frame, struct wh_frame, n_fds);
SAME(struct wire_frame, struct wh_frame, seq);
SAME(struct wire_frame, struct wh_frame, total);
SAME(struct wire_frame, struct wh_frame, id);
SAME(struct wire_frame, struct wh_frame, call);
SAME(struct wire_frame, struct wh_frame, arg);
SAME(struct wire_frame, struct wh_frame, len);
static_assert(sizeof(struct wire_hello) == sizeof(struct wh_hello), "a greeting");
static_assert(sizeof(struct wire_origin) == sizeof(struct wh_origin), "where a right is from");
SAME(struct wire_origin, struct wh_origin, known);
static_assert(sizeof(struct wire_ext) == sizeof(struct wh_rec_ext), "a record");
static_assert(sizeof(struct wire_block) == sizeof(struct wh_rec_block), "a block");
static_assert(sizeof(struct wire_direct) == sizeof(struct wh_rec_direct), "a direct transfer");
static_assert(offsetof(struct wh_out, frames) == WH_LINE && offsetof(struct wh_back, asleep) == WH_LINE, "a lane");
#define SAME_NUMBER(a, b) static_assert((int)(a) == (int)(b), #a)
SAME_NUMBER(WIRE_ITEM_FD, WH_ITEM_FD);
SAME_NUMBER(WIRE_ITEM_SEND, WH_ITEM_SEND);
SAME_NUMBER(WIRE_ITEM_REPLY, WH_ITEM_REPLY);
SAME_NUMBER(WIRE_ITEM_MEMORY, WH_ITEM_MEMORY);
SAME_NUMBER(WIRE_ITEM_RECEIVE, WH_ITEM_RECEIVE);
SAME_NUMBER(WIRE_ITEM_BESIDE, WH_ITEM_BESIDE);
static_assert(sizeof(struct wire_request) == sizeof(struct wh_names_request_head), "a request to wharfd");
SAME(struct wire_request, struct wh_names_request_head, name_len);
SAME(struct wire_request, struct wh_names_request_head, cookie);
SAME(struct wire_request, struct wh_names_request_head, after);
