#include "port/port.h"
#include "right/held.h"
#include "right/right.h"
#include "task/why.h"

#include "base/trace.h"

#include <errno.h>

static int ask_dead_name(wharf_task *t, wharf_name right, wharf_name port)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return err;
        struct wh_inbox *in = p->inbox;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        struct wh_held *h = wh_held(l);
        int r = !l ? err : h->watch ? -EBUSY : 0;
        struct wh_notice *n = r == 0 ? wh_notice_new(t, WHARF_NOTICE_DEAD_NAME, right, port) : NULL;
        if (r == 0 && !n)
                r = wh_trace(-ENOMEM);
        if (r == 0) {
                h->watch = in;
                r = wh_watch_socket(l, true); /* dead already: this is an event at once */
                if (r == 0) {
                        wh_watches(p);
                        h->watch_port = port;
                        h->watch_notice = n;
                } else {
                        h->watch = NULL;
                        wh_notice_free(t, n);
                }
        }
        if (l)
                wh_unlock(&l->o.lock);
        wh_unlock(&in->lock);
        return r;
}

/* Why no notice was asked for: because of `about`, or of where it shall go. */
static int ask_failed(wharf_task *t, int err, wharf_name about, wharf_name port)
{
        if (err == -EBUSY)
                return wh_fail(err, "this was asked for about %u already", about);
        if (err == -EBADF || err == -EPERM)
                return wh_fail_at(t, err, wharf_name_kind(t, port) == WHARF_KIND_PORT ? about : port);
        return wh_fail(err, NULL);
}

WHARF_API int wharf_notify(wharf_task *t, uint32_t what, wharf_name about, wharf_name port, uint64_t sync)
{
        int r = 0;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        if (port == WHARF_NONE && (r = wharf_task_notify(t, &port)) < 0)
                return r;
        switch (what) {
        case WHARF_NOTICE_DEAD_NAME:
                if (sync)
                        return wh_fail(-EINVAL, "sync is for WHARF_NOTICE_NO_SENDERS");
                return ask_failed(t, ask_dead_name(t, about, port), about, port);
        case WHARF_NOTICE_NO_SENDERS:
                return ask_failed(t, wh_no_senders_ask(t, about, port, sync), about, port);
        case WHARF_NOTICE_SEND_POSSIBLE:
        case WHARF_NOTICE_SENT_LATER:
                if (sync)
                        return wh_fail(-EINVAL, "sync is for WHARF_NOTICE_NO_SENDERS");
                r = wh_room_ask(t, what, about, port);
                return r == -EINVAL ? r : ask_failed(t, r, about, port);
        case WHARF_NOTICE_ONCE_UNUSED:
                return wh_fail(-EINVAL, "an unused send-once right is told to its own port, without being asked");
        default:
                return wh_fail(-EINVAL, "nothing can be told about %u", what);
        }
}

WHARF_API int wharf_watch(wharf_task *t, wharf_name right, wharf_name port)
{
        return wharf_notify(t, WHARF_NOTICE_DEAD_NAME, right, port, 0);
}

WHARF_API int wharf_notify_cancel(wharf_task *t, uint32_t what, wharf_name about)
{
        int r;
        struct wh_notice *n = NULL;
        if (what == WHARF_NOTICE_DEAD_NAME) {
                struct wh_link *l = wh_holder_lock(t, about, &r);
                struct wh_held *h = wh_held(l);
                if (!l)
                        return wh_fail_at(t, r, about);
                if (h->watch)
                        wh_watch_socket(l, false);
                h->watch = NULL;
                n = h->watch_notice;
                h->watch_notice = NULL;
                wh_unlock(&l->o.lock);
        } else if (what == WHARF_NOTICE_SEND_POSSIBLE || what == WHARF_NOTICE_SENT_LATER) {
                struct wh_link *l = wh_holder_lock(t, about, &r);
                if (!l)
                        return wh_fail_at(t, r, about);
                n = wh_room_unask(l, what);
                wh_unlock(&l->o.lock);
        } else if (what == WHARF_NOTICE_NO_SENDERS) {
                r = wh_no_senders_unask(t, about, &n);
                if (r < 0)
                        return wh_fail_at(t, r, about);
        } else {
                return wh_fail(-EINVAL, "nothing can be told about %u", what);
        }
        r = n ? 0 : -ENOENT;
        wh_notice_free(t, n);
        return wh_fail(r, "no such notice is asked for about %u, or it came already", about);
}
