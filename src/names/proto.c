#include "names/proto.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* By hand, not isalnum(): what a name is must not depend on the locale. */
static bool name_char(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("._-/:@", c));
}

bool wh_names_valid(const char *name, size_t len)
{
        if (len == 0 || len > WHARF_NAME_MAX)
                return false;
        for (size_t i = 0; i < len; i++)
                if (!name_char(name[i]))
                        return false;
        return true;
}

size_t wh_names_put_request(const struct wh_names_request *req, void *buf)
{
        size_t len = strlen(req->name);
        assert(len <= WHARF_NAME_MAX);
        struct wh_names_request_head h = {.magic = WH_NAMES_MAGIC,
                                          .version = WH_NAMES_VERSION,
                                          .op = (uint16_t)req->op,
                                          .timeout_ns = req->timeout_ns,
                                          .name_len = (uint32_t)len,
                                          .flags = req->flags,
                                          .cookie = req->cookie,
                                          .after = req->after};
        memcpy(buf, &h, sizeof h);
        memcpy((char *)buf + sizeof h, req->name, len);
        return sizeof h + len;
}

int wh_names_get_request(const void *bytes, size_t len, struct wh_names_request *ret)
{
        struct wh_names_request_head h;
        if (len < sizeof h)
                return wh_trace(-EPROTO);
        memcpy(&h, bytes, sizeof h);
        if (h.magic != WH_NAMES_MAGIC)
                return wh_trace(-EPROTO);
        if (h.version != WH_NAMES_VERSION)
                return wh_trace(-EPROTONOSUPPORT);
        if (h.flags & ~(uint32_t)WH_NAMES_PAGE || h.name_len != len - sizeof h)
                return wh_trace(-EPROTO);

        bool list = h.op == WH_NAMES_LIST || h.op == WH_NAMES_WAITS || h.op == WH_NAMES_STATE;
        bool owned = h.op != WH_NAMES_LOOKUP && !list;
        bool watch = h.op == WH_NAMES_WATCH || h.op == WH_NAMES_UNWATCH;
        bool nameless = list || (watch && h.name_len == 0);
        if (h.op < WH_NAMES_REGISTER || (h.op >= WH_NAMES_OPS && h.op != WH_NAMES_WAITS && h.op != WH_NAMES_STATE) ||
            (list && h.name_len) || (h.op != WH_NAMES_LOOKUP && h.timeout_ns) ||
            (h.after && (!list || h.op == WH_NAMES_STATE)) || owned == !(h.cookie.v[0] | h.cookie.v[1]))
                return wh_trace(-EPROTO);
        const char *name = (const char *)bytes + sizeof h;
        if (!nameless && !wh_names_valid(name, h.name_len))
                return -EINVAL;
        ret->op = (enum wh_names_op)h.op;
        ret->timeout_ns = h.timeout_ns;
        ret->after = h.after;
        ret->flags = h.flags;
        ret->cookie = h.cookie;
        memcpy(ret->name, name, h.name_len);
        ret->name[h.name_len] = 0;
        return 0;
}

struct wh_names_reply_head wh_names_reply(enum wh_names_op op, int err, uint32_t count)
{
        return (struct wh_names_reply_head){.magic = WH_NAMES_MAGIC,
                                            .version = WH_NAMES_VERSION,
                                            .op = (uint16_t)op,
                                            .error = (uint32_t)-err,
                                            .count = count};
}

int wh_names_get_reply(const void *bytes, size_t len, enum wh_names_op op, int *ret_answer, uint32_t *ret_line)
{
        struct wh_names_reply_head h;
        if (len < sizeof h)
                return wh_trace(-EPROTO);
        memcpy(&h, bytes, sizeof h);
        if (h.magic != WH_NAMES_MAGIC)
                return wh_trace(-EPROTO);
        if (h.version != WH_NAMES_VERSION)
                return wh_trace(-EPROTONOSUPPORT);
        if (h.error) {
                /* 4095 is the kernel's largest errno. A server that refuses a malformed request may not know its op. */
                if (h.error > 4095 || (h.count && h.error != EACCES) || h.next || len != sizeof h)
                        return wh_trace(-EPROTO);
                *ret_answer = -(int)h.error;
                *ret_line = h.count;
                return 0;
        }
        if (h.op != (uint16_t)op || (op != WH_NAMES_LIST && op != WH_NAMES_WAITS &&
                                     (h.count || h.next || (op != WH_NAMES_STATE && len != sizeof h))))
                return wh_trace(-EPROTO);
        *ret_answer = 0;
        *ret_line = 0;
        return 0;
}

uint64_t wh_names_get_next(const void *bytes)
{
        struct wh_names_reply_head h;
        memcpy(&h, bytes, sizeof h);
        return h.next;
}

size_t wh_names_put_event(const struct wharf_name_event *ev, void *buf)
{
        size_t len = strlen(ev->name);
        assert(len <= WHARF_NAME_MAX);
        struct wh_names_event_head h = {.magic = WH_NAMES_MAGIC,
                                        .version = WH_NAMES_VERSION,
                                        .what = (uint16_t)ev->what,
                                        .pid = ev->pid,
                                        .uid = ev->uid,
                                        .port_id = ev->id.v,
                                        .name_len = (uint32_t)len};
        memcpy(buf, &h, sizeof h);
        memcpy((char *)buf + sizeof h, ev->name, len);
        return sizeof h + len;
}

int wh_names_get_event(const void *bytes, size_t len, struct wharf_name_event *ret)
{
        struct wh_names_event_head h;
        if (len < sizeof h)
                return wh_trace(-EPROTO);
        memcpy(&h, bytes, sizeof h);
        if (h.magic != WH_NAMES_MAGIC)
                return wh_trace(-EPROTO);
        if (h.version != WH_NAMES_VERSION)
                return wh_trace(-EPROTONOSUPPORT);
        const char *name = (const char *)bytes + sizeof h;
        bool named = h.what == WHARF_NAME_IS || h.what == WHARF_NAME_GONE;
        if (h.what < WHARF_NAMES_BEGIN || h.what > WHARF_NAMES_END || h.zero || h.name_len != len - sizeof h ||
            (named ? !wh_names_valid(name, h.name_len) : h.name_len != 0))
                return wh_trace(-EPROTO);
        *ret = (struct wharf_name_event){.what = h.what, .pid = h.pid, .uid = h.uid, .id = {h.port_id}};
        memcpy(ret->name, name, h.name_len);
        return 0;
}

size_t wh_names_put_entry(const struct wharf_named *named, void *buf)
{
        size_t len = strlen(named->name);
        assert(len <= WHARF_NAME_MAX);
        struct wh_names_entry e = {.pid = named->pid,
                                   .uid = named->uid,
                                   .port_id = named->id.v,
                                   .senders = named->senders,
                                   .receivers_waiting = named->receivers_waiting,
                                   .queued_messages = named->queued_messages,
                                   .received_messages = named->received_messages,
                                   .received_bytes = named->received_bytes,
                                   .name_len = (uint32_t)len,
                                   .known = named->known};
        memcpy(buf, &e, sizeof e);
        memcpy((char *)buf + sizeof e, named->name, len);
        return sizeof e + len;
}

int wh_names_get_list(const void *bytes, size_t len, struct wharf_named **ret, size_t *ret_n)
{
        const char *at = bytes;
        struct wh_names_reply_head h;
        if (len < sizeof h)
                return wh_trace(-EPROTO);
        memcpy(&h, at, sizeof h);
        at += sizeof h;
        len -= sizeof h;
        /* Before anything is allocated: so many entries cannot be in so few bytes (N2). */
        if (h.count > len / (sizeof(struct wh_names_entry) + 1))
                return wh_trace(-EPROTO);
        struct wharf_named *all = wh_os_calloc(h.count ? h.count : 1, sizeof *all);
        if (!all)
                return wh_trace(-ENOMEM);
        for (uint32_t i = 0; i < h.count; i++) {
                struct wh_names_entry e;
                if (len < sizeof e)
                        goto bad;
                memcpy(&e, at, sizeof e);
                at += sizeof e;
                len -= sizeof e;
                if (e.known > WHARF_KNOWN_TOLD || e.name_len > len || !wh_names_valid(at, e.name_len))
                        goto bad;
                all[i] = (struct wharf_named){.pid = e.pid,
                                              .uid = e.uid,
                                              .known = e.known,
                                              .id = {e.port_id},
                                              .senders = e.senders,
                                              .receivers_waiting = e.receivers_waiting,
                                              .queued_messages = e.queued_messages,
                                              .received_messages = e.received_messages,
                                              .received_bytes = e.received_bytes};
                memcpy(all[i].name, at, e.name_len);
                at += e.name_len;
                len -= e.name_len;
        }
        if (len)
                goto bad;
        *ret = all;
        *ret_n = h.count;
        return 0;
bad:
        free(all);
        return wh_trace(-EPROTO);
}

int wh_names_get_state(const void *bytes, size_t len, struct wh_names_state *ret)
{
        if (len != sizeof(struct wh_names_reply_head) + sizeof *ret)
                return wh_trace(-EPROTO);
        memcpy(ret, (const char *)bytes + sizeof(struct wh_names_reply_head), sizeof *ret);
        return 0;
}

int wh_names_get_tasks(const void *bytes, size_t len, struct wh_names_task **ret, size_t *ret_n)
{
        struct wh_names_reply_head h;
        if (len < sizeof h)
                return wh_trace(-EPROTO);
        memcpy(&h, bytes, sizeof h);
        if ((len - sizeof h) % sizeof **ret || h.count != (len - sizeof h) / sizeof **ret)
                return wh_trace(-EPROTO);
        struct wh_names_task *all = wh_os_malloc(h.count ? len - sizeof h : 1);
        if (!all)
                return wh_trace(-ENOMEM);
        memcpy(all, (const char *)bytes + sizeof h, len - sizeof h);
        *ret = all;
        *ret_n = h.count;
        return 0;
}
