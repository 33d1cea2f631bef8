/*
 * proto - what tasks and wharfd say to each other: one request, one reply.
 *
 *      request   head, then the name
 *      reply     head, then for LIST `count` times an entry with its name, for WAITS `count` times a task
 *                for STATE a struct wh_names_state
 *      event     head, then the name: what a watcher is told, at a port of its own
 *
 * Rights and descriptors travel beside the bytes, as items of the message:
 *      REGISTER  asks with a send right to the port, and with its status page if it could make one
 *      LOOKUP    is answered with a send right
 *      WATCH     asks with a send right to the port that events are to go to
 *      any       with the flag WH_NAMES_PAGE: its last item is the page of the task that asks (task/waits.h)
 *
 * LIST and WAITS are answered in parts, so that no request costs wharfd more than another: an answer says after which
 * entry the next part begins, and a client that wants it asks with that number. The newest entries come first, so what is
 * new while a list is read does not prolong it. A number of an earlier wharfd is refused (-ESTALE), and the client reads
 * the list from its beginning.
 *
 * A cookie is a number of 128 random bits that a task makes for each name it registers and each watch it asks for. The
 * task that knows it owns the entry: that is how a task takes a name back, and how it is known again after its
 * connection, or wharfd, was replaced.
 *
 * Always true:
 *   N1  Every parser works on bytes that only this process can write: the copying receive made them private.
 *   N2  A length is believed only when it agrees with how many bytes really came, to the last byte.
 *   N3  magic, version and op keep their place in every future version, so each side can refuse the other in words that
 *       it understands (-EPROTONOSUPPORT).
 * Who asks is never read from a message: the kernel says it (struct wharf_sender).
 */
#ifndef WH_NAMES_PROTO_H
#define WH_NAMES_PROTO_H

#include "task/waits.h"
#include "wharf/names.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WH_NAMES_MAGIC 0x4e485257u
#ifndef WH_NAMES_VERSION /* proof/matrix/later.h */
#define WH_NAMES_VERSION 3u
#endif
#define WH_NAMES_FOREVER UINT64_MAX /* in timeout_ns */

enum {
        WH_NAMES_PAGE = 1, /* in flags: the last item of the message is the asking task's page */
};

enum wh_names_op {
        WH_NAMES_REGISTER = 1,
        WH_NAMES_UNREGISTER = 2,
        WH_NAMES_LOOKUP = 3,
        WH_NAMES_LIST = 4,
        WH_NAMES_WATCH = 5,
        WH_NAMES_UNWATCH = 6,
        WH_NAMES_OPS, /* one more than the last of these */
        WH_NAMES_WAITS = 16,
        WH_NAMES_STATE = 17,
};

struct wh_cookie {
        uint64_t v[2];
};

struct wh_names_request_head {
        uint32_t magic;
        uint16_t version;
        uint16_t op;         /* enum wh_names_op */
        uint64_t timeout_ns; /* LOOKUP: how long to wait for the name, from the arrival of the request; otherwise 0 */
        uint32_t name_len;   /* bytes behind this head */
        uint32_t flags;      /* WH_NAMES_PAGE */
        struct wh_cookie cookie; /* REGISTER, UNREGISTER, WATCH, UNWATCH; otherwise 0 */
        uint64_t after;          /* LIST, WAITS: `next` of the part before; otherwise 0 */
};
static_assert(sizeof(struct wh_names_request_head) == 48, "both processes rely on this layout");

struct wh_names_reply_head {
        uint32_t magic;
        uint16_t version;
        uint16_t op;    /* the request's */
        uint32_t error; /* 0, or a positive errno; then nothing follows */
        uint32_t count; /* LIST and WAITS: entries behind this head. EACCES: the line of the rule, or 0. Otherwise 0 */
        uint64_t next;  /* LIST, WAITS: there is more, after this; 0: that was all. Otherwise 0 */
};
static_assert(sizeof(struct wh_names_reply_head) == 24, "both processes rely on this layout");

struct wh_names_entry {
        int32_t pid;
        uint32_t uid;
        uint64_t port_id;
        uint32_t senders;
        uint32_t receivers_waiting;
        uint64_t queued_messages;
        uint64_t received_messages;
        uint64_t received_bytes;
        uint32_t name_len; /* bytes behind this entry */
        uint32_t known;    /* enum wharf_known: how pid and uid are */
};
static_assert(sizeof(struct wh_names_entry) == 56, "both processes rely on this layout");

/*
 * One task that waits, or not. The first of the first part is wharfd itself. Of ports whose names the asker may not see
 * the id is left out.
 */
struct wh_names_task {
        int32_t pid;
        uint32_t uid;
        struct wh_task_view view;
};
static_assert(sizeof(struct wh_names_task) == 8 + sizeof(struct wh_task_view), "both processes rely on this layout");

enum { WH_CONFINED_PRIVILEGES = 1, WH_CONFINED_FILES = 2, WH_CONFINED_CALLS = 4 };
enum { WH_HOLDER_NONE = 0, WH_HOLDER_KEEPER = 1, WH_HOLDER_MANAGER = 2 };

/* How wharfd is. What only root and its own user are told is 0 for others. */
struct wh_names_state {
        uint32_t holder;         /* who holds what it needs to go on: WH_HOLDER_* */
        uint32_t confined;       /* WH_CONFINED_*: what it gave up */
        uint32_t names, watches; /* root and its own user */
        uint32_t unkept;         /* ... of these, those that would not survive its death */
        uint32_t unkept_error;   /* ... an errno: why not */
        uint32_t owed_error;     /* ... the last one's have not all been taken up yet, because of this */
        uint32_t deaths, fails;  /* ... of servers; servers that could not be started */
        uint32_t fail_error;     /* ... why the last of them could not be */
};
static_assert(sizeof(struct wh_names_state) == 40, "both processes rely on this layout");

struct wh_names_event_head {
        uint32_t magic;
        uint16_t version;
        uint16_t what; /* enum wharf_name_what */
        int32_t pid;
        uint32_t uid;
        uint64_t port_id;
        uint32_t name_len; /* bytes behind this head */
        uint32_t zero;
};
static_assert(sizeof(struct wh_names_event_head) == 32, "both processes rely on this layout");

#define WH_NAMES_EVENT_MAX (sizeof(struct wh_names_event_head) + WHARF_NAME_MAX)
#define WH_NAMES_REQUEST_MAX (sizeof(struct wh_names_request_head) + WHARF_NAME_MAX)
enum {
        WH_NAMES_LOOKED_MAX = 128,       /* names that one LIST looks at */
        WH_NAMES_VIEW_LOOKED_MAX = 1024, /* ... and WAITS, for what one task says of itself */
        WH_NAMES_LIST_MAX = 16384,       /* bytes of a part */
        WH_NAMES_TASKS_MAX = 8,          /* tasks of a part */
};
#define WH_NAMES_ENTRY_MAX (sizeof(struct wh_names_entry) + WHARF_NAME_MAX)

/* A request in this process's own words. */
struct wh_names_request {
        enum wh_names_op op;
        uint64_t timeout_ns;
        struct wh_cookie cookie;
        char name[WHARF_NAME_MAX + 1]; /* "" for LIST and WAITS; a pattern for WATCH, "" for all */
        uint32_t flags;
        uint64_t after;
};

/* 1 to WHARF_NAME_MAX of: letters, digits and . _ - / : @ */
bool wh_names_valid(const char *name, size_t len);

/* Returns the length. `buf` has WH_NAMES_REQUEST_MAX bytes; the request is valid. */
size_t wh_names_put_request(const struct wh_names_request *req, void *buf);
/* -EPROTO, -EPROTONOSUPPORT, or -EINVAL for what is well formed but no name. */
int wh_names_get_request(const void *bytes, size_t len, struct wh_names_request *ret);

/* The head of a reply; `err` is 0 or a negative errno. */
struct wh_names_reply_head wh_names_reply(enum wh_names_op op, int err, uint32_t count);
/*
 * Checks a reply to `op`: 0 or the negative errno that the server answered, in *ret_answer, and for -EACCES the line of
 * its rules in *ret_line. Returns -EPROTO or -EPROTONOSUPPORT for what is no reply. Entries are not looked at.
 */
int wh_names_get_reply(const void *bytes, size_t len, enum wh_names_op op, int *ret_answer, uint32_t *ret_line);

/* Of a reply that wh_names_get_reply() accepted: after what the next part begins; 0: there is none. */
uint64_t wh_names_get_next(const void *bytes);

/* Returns the length. `buf` has WH_NAMES_EVENT_MAX bytes. */
size_t wh_names_put_event(const struct wharf_name_event *ev, void *buf);
/* -EPROTO, -EPROTONOSUPPORT */
int wh_names_get_event(const void *bytes, size_t len, struct wharf_name_event *ret);

/* Appends one entry; `buf` has WH_NAMES_ENTRY_MAX bytes. Returns its length. */
size_t wh_names_put_entry(const struct wharf_named *named, void *buf);
/* All entries of a reply that wh_names_get_reply() accepted. free() *ret. -EPROTO, -ENOMEM */
int wh_names_get_list(const void *bytes, size_t len, struct wharf_named **ret, size_t *ret_n);
/* What follows a reply to STATE. -EPROTO */
int wh_names_get_state(const void *bytes, size_t len, struct wh_names_state *ret);
/* The same of a reply to WAITS. What a task says of itself is its own claim. */
int wh_names_get_tasks(const void *bytes, size_t len, struct wh_names_task **ret, size_t *ret_n);

#endif
